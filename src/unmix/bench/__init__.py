"""`unmix bench`: how fast training, harvesting and a whole sweep are on this machine, beside what it can do."""
