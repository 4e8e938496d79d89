Feature: Reports that can be shown again
  Markets Operations reports every morning on what was predicted and what failed. A figure that was reported
  must be shown again as it was, be the same when it is asked for again, and lead to the trades behind it.

  Background:
    Given a desk whose ledger holds 40 days of settlement predictions and their outcomes

  Scenario: Yesterday's report is shown again as it was, though the truth has moved on
    Given the morning report was run
    When an outcome of a past day comes late
    Then the morning report of then shows the same figures as then
    And a new morning report shows other figures

  Scenario: The report is asked for as it was known on a day
    When the morning report is run as observed on 2026-11-10
    Then no day after 2026-11-10 is in it
    And the outcomes of 2026-11-09 are all in
    But the outcomes of 2026-11-10 are not in yet

  Scenario: A figure leads to the trades behind it
    Given the morning report was run
    When the head of desk asks for the rows behind its first day
    Then as many trades are listed as the day counts

  Scenario: The validator gets a pack that stands by itself
    When the model performance pack is made as a page and as a document
    Then the page fetches nothing and runs no script
    And the document says for which figures it stands, by the digest of their queries

  Scenario: A file that would do more than read is not run
    When an analyst offers a report that deletes predictions
    Then it is refused, and the line is named
