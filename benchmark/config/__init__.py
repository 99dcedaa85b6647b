"""What a user may ask for in `params.yaml`. Imports core and components."""
