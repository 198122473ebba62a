"""Many runs from one file: a list where one value is expected stands for one run with each of them."""
