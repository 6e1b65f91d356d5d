"""User configuration: records, and the texts that users type for them."""
