"""What is installed of edgephi and of the packages that its extras ask for."""
