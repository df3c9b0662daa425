"""What a proposal is worth: one file a judge, with its words, its call and how its evidence is read."""
