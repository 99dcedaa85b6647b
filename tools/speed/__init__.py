"""How fast a training is, beside the same training with other libraries' pipelines."""
