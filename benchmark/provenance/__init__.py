"""What made a record: program, packages, image and machine, and how one can tell."""
