"""What is proven of values by the programs that make them: whose entries they give away."""
