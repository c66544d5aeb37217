"""A model on disk (OpenVINO IR + `model.json`) and the compiled model of this process."""
