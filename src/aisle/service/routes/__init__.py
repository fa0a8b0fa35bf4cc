"""The routes of the prediction service, a module a subject."""
