"""More channels and layers, the function unchanged; where a network is too wide or too narrow."""
