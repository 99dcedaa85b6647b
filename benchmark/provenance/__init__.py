"""What made a record: program, packages, image and machine."""
