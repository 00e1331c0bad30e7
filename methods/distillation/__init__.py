"""Knowledge distillation: methods that train a student with a teacher's outputs or features."""
