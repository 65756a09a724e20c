"""How the doctor finds its facts. Each function changes nothing and may fail: `examine` tells that it did."""
