package repository

// Spec: TP-5, S-77.
var _ = cases
