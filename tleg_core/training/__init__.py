"""Training: from images and an ancestry model to a learngene. The only part of the core that imports torch."""
