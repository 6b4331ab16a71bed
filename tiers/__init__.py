"""Where a block can live and how its bytes move. Knows nothing of models, predictors or simulation."""
