"""Where and how cells are trained. Imports everything that a training needs."""
