"""How far other tools, and edgephi's own engines, are from the original of Phi-3.5-MoE and Phi-3-small."""
