"""What goes wrong outside the program: kills, full disks, flipped bytes, and files of any content."""
