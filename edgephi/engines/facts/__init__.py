"""What the files about engines consist of, and how they are found and asked."""
