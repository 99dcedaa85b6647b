"""What a component is: its facts, its options, where it is found. Imports core."""
