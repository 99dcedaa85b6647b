"""Where and how cells are trained. Imports everything that training needs."""
