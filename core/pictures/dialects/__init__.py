"""How each tool writes down what a picture was made with, a file for each; core/pictures/metadata.py asks them."""
