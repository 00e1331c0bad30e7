"""Knowledge distillation: methods that train a student by a teacher's outputs or features."""
