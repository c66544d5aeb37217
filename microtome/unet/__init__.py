"""A U-Net in float32 without OpenVINO: fewer than half of the products; the same bits with any FMA."""
