"""The local web page on which a person confirms or corrects what was concluded."""
