"""What follows from the closed form: derivation, twins, limits, sensitivities."""
