"""A faithful reproduction of AlexNet (Krizhevsky, Sutskever and Hinton, 2012)."""
