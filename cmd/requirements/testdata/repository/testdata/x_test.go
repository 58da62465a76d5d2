package repository // E-98
