SELECT 'W-88'; -- Spec: W-99
