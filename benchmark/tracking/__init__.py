"""MLflow as a view of the records. Imports results and core."""
