"""What edgephi keeps on this machine: bundles, stores, downloads, and what a cut command has left."""
