package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// citation is an id in a file. Only those of tests count for a rule; the others
// are read to find ids that nobody has defined.
type citation struct {
	id   string
	file string
	line int
	test bool
}

func (c citation) String() string { return c.file + ":" + strconv.Itoa(c.line) }

var (
	rangePattern = regexp.MustCompile(`\b(TP|[A-Z])-([1-9][0-9]?)\s+to\s+(TP|[A-Z])-([1-9][0-9]?)\b`)
	// casePattern is a string that begins with ids, as names of test cases do.
	casePattern = regexp.MustCompile(`^(?:TP|[A-Z])-[1-9][0-9]?(?:(?:, | to )(?:TP|[A-Z])-[1-9][0-9]?)*(?: |$)`)
)

// cited returns the ids in a text: those it names, and those between the ends of
// a range such as "A-1 to A-5".
func cited(text string) []string {
	list := idPattern.FindAllString(text, -1)
	for _, m := range rangePattern.FindAllStringSubmatch(text, -1) {
		first, _ := strconv.Atoi(m[2])
		last, _ := strconv.Atoi(m[4])
		if m[1] != m[3] {
			continue
		}
		for n := first + 1; n < last; n++ {
			list = append(list, m[1]+"-"+strconv.Itoa(n))
		}
	}
	return list
}

// findCitations reads the Go, SQL and Markdown files of a repository.
func findCitations(repository fs.FS) ([]citation, error) {
	var list []citation
	err := fs.WalkDir(repository, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			base := entry.Name()
			if name != "." && strings.HasPrefix(base, ".") || base == "testdata" || base == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		find := map[string]func(name, content string) ([]citation, error){
			".go": goCitations, ".sql": sqlCitations, ".md": textCitations,
		}[path.Ext(name)]
		if find == nil {
			return nil
		}
		content, err := fs.ReadFile(repository, name)
		if err != nil {
			return err
		}
		found, err := find(name, string(content))
		list = append(list, found...)
		return err
	})
	return list, err
}

// goCitations finds ids in comments and at the beginning of strings.
func goCitations(name, content string) ([]citation, error) {
	var list []citation
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", name, err)
	}
	add := func(at token.Pos, text string) {
		for _, id := range cited(text) {
			list = append(list, citation{id, name, files.Position(at).Line, strings.HasSuffix(name, "_test.go")})
		}
	}
	for _, group := range file.Comments {
		add(group.Pos(), group.Text())
	}
	ast.Inspect(file, func(n ast.Node) bool {
		literal, ok := n.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		if text, err := strconv.Unquote(literal.Value); err == nil {
			add(literal.Pos(), casePattern.FindString(text))
		}
		return true
	})
	return list, nil
}

// sqlCitations finds ids in comments.
func sqlCitations(name, content string) ([]citation, error) {
	var list []citation
	for i, line := range strings.Split(content, "\n") {
		_, comment, _ := strings.Cut(line, "--")
		for _, id := range cited(comment) {
			list = append(list, citation{id: id, file: name, line: i + 1})
		}
	}
	return list, nil
}

func textCitations(name, content string) ([]citation, error) {
	var list []citation
	for i, line := range strings.Split(content, "\n") {
		for _, id := range cited(line) {
			list = append(list, citation{id: id, file: name, line: i + 1})
		}
	}
	return list, nil
}
