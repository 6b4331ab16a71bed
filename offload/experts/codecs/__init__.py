"""Forms in which the matrices of an expert are kept: as they are stored, or in fewer bits."""
