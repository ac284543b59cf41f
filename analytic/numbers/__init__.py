"""Values of the closed forms and their accuracy: exact rationals, float64, double-double, mpmath."""
