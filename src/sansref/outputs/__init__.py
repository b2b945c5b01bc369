"""Images in the formats that users know, and what they say of how they came about."""
