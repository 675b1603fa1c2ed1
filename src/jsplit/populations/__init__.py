"""Client populations: who has which records, and what a round reads of them."""
