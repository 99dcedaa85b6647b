"""The claims: what is asked of the records, and what they answer."""
