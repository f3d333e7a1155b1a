"""Bills of materials, held against CycloneDX's schema and read by others."""
