"""HTTP as strangers speak it: connections, heads, and room for so many."""
