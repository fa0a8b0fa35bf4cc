"""What predicts: text and image models, calibration, fusion, the bundle that holds them, and the predictor."""
