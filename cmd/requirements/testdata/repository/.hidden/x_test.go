package repository // E-99
