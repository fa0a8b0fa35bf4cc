"""The administrator's console: pages that the prediction service serves at `/console`."""
