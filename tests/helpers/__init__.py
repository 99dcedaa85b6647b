"""What several tests share: small projects, networks, planted records."""
