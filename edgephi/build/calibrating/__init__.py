"""The method "calibrated": codes found layer by layer, behind what is quantised already."""
