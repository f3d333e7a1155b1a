"""The Python that runs a generation: of the device, or made from the bundle's wheels."""
