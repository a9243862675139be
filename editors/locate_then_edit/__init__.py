"""Methods that solve for the update of located layers: keys, values, second moments, solutions."""
