"""What is changed in a container so that its programs run on a slice, and in what starts it."""
