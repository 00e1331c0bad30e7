"""Knowledge distillation: methods that train a student on a teacher's outputs or features."""
