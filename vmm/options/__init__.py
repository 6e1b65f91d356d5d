"""What users configure: records, and what they type for them."""
