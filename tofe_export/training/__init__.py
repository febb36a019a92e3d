"""Training: masked forward, budget-aware losses, one loop on Hugging Face accelerate."""
