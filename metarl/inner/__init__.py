"""The inner loop: adaptation rules, what they see, and the one fold that replays them."""
