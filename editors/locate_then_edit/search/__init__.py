"""Finding the value that a layer is to say: texts, shifts, the search itself."""
